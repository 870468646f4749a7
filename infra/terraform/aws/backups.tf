# The bucket of the backups (platform.copies), and its copy in the second region: versions, Object Lock, a key of its own
# in each region. What is copied here is sealed by recoup before; the key of AWS is the second lock, not the only one.

resource "aws_s3_bucket" "backups" {
  #checkov:skip=CKV2_AWS_62:Nobody waits for an event; recoup ready tells what a copy lacks
  bucket              = var.bucket
  object_lock_enabled = true

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket" "copy" {
  #checkov:skip=CKV2_AWS_62:Nobody waits for an event; recoup ready tells what a copy lacks
  #checkov:skip=CKV_AWS_18:S3 alone writes here, by replication, which has metrics; a trail of the account sees the rest
  provider            = aws.second
  bucket              = "${var.bucket}-copy"
  object_lock_enabled = true

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_versioning" "backups" {
  bucket = aws_s3_bucket.backups.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_versioning" "copy" {
  provider = aws.second
  bucket   = aws_s3_bucket.copy.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_object_lock_configuration" "backups" {
  bucket = aws_s3_bucket.backups.id

  rule {
    default_retention {
      mode = "COMPLIANCE"
      days = var.lock_days
    }
  }
}

resource "aws_s3_bucket_object_lock_configuration" "copy" {
  provider = aws.second
  bucket   = aws_s3_bucket.copy.id

  rule {
    default_retention {
      mode = "COMPLIANCE"
      days = var.lock_days
    }
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "backups" {
  bucket = aws_s3_bucket.backups.id

  rule {
    bucket_key_enabled = true

    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.first.arn
    }
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "copy" {
  provider = aws.second
  bucket   = aws_s3_bucket.copy.id

  rule {
    bucket_key_enabled = true

    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.second.arn
    }
  }
}

resource "aws_s3_bucket_public_access_block" "backups" {
  bucket                  = aws_s3_bucket.backups.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_public_access_block" "copy" {
  provider                = aws.second
  bucket                  = aws_s3_bucket.copy.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

# recoup's retention deletes; here only what is hidden by then goes, when its lock is over.
resource "aws_s3_bucket_lifecycle_configuration" "backups" {
  bucket     = aws_s3_bucket.backups.id
  depends_on = [aws_s3_bucket_versioning.backups]

  rule {
    id     = "old-versions"
    status = "Enabled"
    filter {}

    noncurrent_version_expiration {
      noncurrent_days = var.keep_days
    }

    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "copy" {
  provider   = aws.second
  bucket     = aws_s3_bucket.copy.id
  depends_on = [aws_s3_bucket_versioning.copy]

  rule {
    id     = "old-versions"
    status = "Enabled"
    filter {}

    noncurrent_version_expiration {
      noncurrent_days = var.keep_days
    }

    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }
}

resource "aws_s3_bucket_replication_configuration" "backups" {
  bucket     = aws_s3_bucket.backups.id
  role       = aws_iam_role.replication.arn
  depends_on = [aws_s3_bucket_versioning.backups, aws_s3_bucket_versioning.copy]

  rule {
    id     = "to-the-second-region"
    status = "Enabled"
    filter {}

    # A deletion here is not one there.
    delete_marker_replication {
      status = "Disabled"
    }

    source_selection_criteria {
      sse_kms_encrypted_objects {
        status = "Enabled"
      }
    }

    destination {
      bucket        = aws_s3_bucket.copy.arn
      storage_class = "STANDARD_IA"

      encryption_configuration {
        replica_kms_key_id = aws_kms_key.second.arn
      }

      # Within 15 minutes, and told when it is not.
      replication_time {
        status = "Enabled"
        time {
          minutes = 15
        }
      }

      metrics {
        status = "Enabled"
        event_threshold {
          minutes = 15
        }
      }
    }
  }
}

resource "aws_s3_bucket_logging" "backups" {
  bucket        = aws_s3_bucket.backups.id
  target_bucket = aws_s3_bucket.logs.id
  target_prefix = "backups/"
}

data "aws_iam_policy_document" "tls_only" {
  for_each = { backups = aws_s3_bucket.backups.arn, copy = aws_s3_bucket.copy.arn }

  statement {
    sid       = "OnlyByTLS"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [each.value, "${each.value}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "backups" {
  bucket = aws_s3_bucket.backups.id
  policy = data.aws_iam_policy_document.tls_only["backups"].json
}

resource "aws_s3_bucket_policy" "copy" {
  provider = aws.second
  bucket   = aws_s3_bucket.copy.id
  policy   = data.aws_iam_policy_document.tls_only["copy"].json
}
