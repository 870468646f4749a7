# What production stands on, in two regions. README.md says what of this was run, and what was not.

terraform {
  required_version = ">= 1.10"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.80, < 6"
    }
  }

  # The rest of the settings (bucket, key, region, use_lockfile = true) come from a file: platform.terraform.backend.
  # The state's bucket is in the second region: it must outlive the first.
  backend "s3" {
    encrypt = true
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = { Project = var.name, ManagedBy = "terraform" }
  }
}

provider "aws" {
  alias  = "second"
  region = var.second_region

  default_tags {
    tags = { Project = var.name, ManagedBy = "terraform" }
  }
}

data "aws_caller_identity" "me" {}
data "aws_partition" "here" {}
