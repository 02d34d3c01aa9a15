output "instance_profiles" {
  description = "Names, by member."
  value       = { for member, profile in aws_iam_instance_profile.this : member => profile.name }
}

output "role_arns" {
  description = "By member."
  value       = { for member, role in aws_iam_role.this : member => role.arn }
}
