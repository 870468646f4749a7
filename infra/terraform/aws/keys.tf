# A key in each region: the copy must open when the first region, and its KMS with it, is away.

data "aws_iam_policy_document" "key" {
  #checkov:skip=CKV_AWS_109:A key's own policy; without the account in it nobody could ever change it again
  #checkov:skip=CKV_AWS_111:In a key's own policy the resource is that key
  #checkov:skip=CKV_AWS_356:In a key's own policy the resource is that key
  # Who may use a key is said by the roles' own policies.
  statement {
    sid       = "TheAccountsPolicies"
    actions   = ["kms:*"]
    resources = ["*"]

    principals {
      type        = "AWS"
      identifiers = ["arn:${data.aws_partition.here.partition}:iam::${data.aws_caller_identity.me.account_id}:root"]
    }
  }

  statement {
    sid       = "Logs"
    actions   = ["kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey*", "kms:DescribeKey"]
    resources = ["*"]

    principals {
      type        = "Service"
      identifiers = ["logs.${var.region}.amazonaws.com"]
    }

    condition {
      test     = "ArnLike"
      variable = "kms:EncryptionContext:aws:logs:arn"
      values = [
        "arn:${data.aws_partition.here.partition}:logs:${var.region}:${data.aws_caller_identity.me.account_id}:log-group:/${var.name}/*",
      ]
    }
  }
}

resource "aws_kms_key" "first" {
  description             = "${var.name}: disks, logs and backups"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = data.aws_iam_policy_document.key.json
}

resource "aws_kms_key" "second" {
  provider                = aws.second
  description             = "${var.name}: the copy of the backups"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = data.aws_iam_policy_document.key.json
}
