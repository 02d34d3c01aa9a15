output "log_group" {
  value = aws_cloudwatch_log_group.this.name
}

output "log_group_arn" {
  value = aws_cloudwatch_log_group.this.arn
}

output "dashboard" {
  value = aws_cloudwatch_dashboard.this.dashboard_name
}
