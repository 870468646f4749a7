output "address" {
  description = "Where users come in."
  value       = "https://${var.host_name}.${var.domain}"
}

output "hosts" {
  description = "The hosts' ids: aws ssm start-session --target ID."
  value       = aws_instance.host[*].id
}

output "backups" {
  description = "The bucket of the backups and its copy, for platform.copies."
  value       = { bucket = aws_s3_bucket.backups.id, copy = aws_s3_bucket.copy.id, key = aws_kms_key.first.arn }
}

output "recovery_role" {
  description = "What the people of the plan take on, on the day."
  value       = aws_iam_role.recovery.arn
}
