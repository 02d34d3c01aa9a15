# An image of Debian 12 with komainu and PostgreSQL 15, for terraform/: `packer build -var region=… -var package=… komainu.pkr.hcl`.

variable "region" {
  type        = string
  description = "Where the image is built and lives."
}

variable "package" {
  type        = string
  description = "komainu's Debian package for the architecture, its binary built against Debian 12's glibc or an older one."
}

variable "architecture" {
  type        = string
  default     = "arm64"
  description = "The architecture: arm64 or x86_64."
}

variable "subnet_id" {
  type        = string
  default     = null
  description = "A subnet with a way to the internet; null: of the default VPC."
}

variable "regions" {
  type        = list(string)
  default     = []
  description = "Regions that the image is copied to."
}

variable "kms_key_id" {
  type        = string
  default     = null
  description = "The key that the image is encrypted with; null: the account's own of EBS."
}

locals {
  instance_types = { arm64 = "t4g.medium", x86_64 = "t3.medium" }
  # As Debian names its images.
  architectures = { arm64 = "arm64", x86_64 = "amd64" }
  built         = formatdate("YYYYMMDD-hhmmss", timestamp())
}

source "amazon-ebs" "debian" {
  region        = var.region
  ami_name      = "komainu-${var.architecture}-${local.built}"
  instance_type = local.instance_types[var.architecture]
  subnet_id     = var.subnet_id
  ssh_username  = "admin"
  encrypt_boot  = true
  kms_key_id    = var.kms_key_id
  ami_regions   = var.regions

  # Debian's own account.
  source_ami_filter {
    owners      = ["136693071363"]
    most_recent = true
    filters = {
      name                = "debian-12-${local.architectures[var.architecture]}-*"
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
  }

  launch_block_device_mappings {
    device_name           = "/dev/xvda"
    volume_type           = "gp3"
    volume_size           = 16
    iops                  = 3000
    throughput            = 125
    delete_on_termination = true
  }

  tags = {
    Name             = "komainu-${var.architecture}-${local.built}"
    "komainu:source" = "{{ .SourceAMIName }}"
  }
}

build {
  sources = ["source.amazon-ebs.debian"]

  provisioner "file" {
    source      = "${path.root}/"
    destination = "/tmp/ami"
  }

  provisioner "file" {
    source      = var.package
    destination = "/tmp/komainu.deb"
  }

  provisioner "shell" {
    # cloud-init is at work in the first seconds, and holds apt's lock.
    inline = [
      "cloud-init status --wait >/dev/null || true",
      "chmod +x /tmp/ami/provision.sh",
      "sudo /tmp/ami/provision.sh --package /tmp/komainu.deb --image",
      "rm -rf /tmp/ami /tmp/komainu.deb",
    ]
  }
}
