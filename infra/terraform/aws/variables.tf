variable "name" {
  description = "What everything is named after."
  type        = string
  default     = "neo-service-layer"
}

variable "region" {
  description = "Where the platform runs."
  type        = string
}

variable "second_region" {
  description = "Where the copies of the backups are, and where a stand-in page or standby answers."
  type        = string

  validation {
    condition     = var.second_region != var.region
    error_message = "The second region must be another one: it is there for the loss of the first."
  }
}

variable "zones" {
  description = "The availability zones the network spans, by name; their order decides the addresses."
  type        = list(string)

  validation {
    condition     = length(distinct(var.zones)) >= 2 && length(distinct(var.zones)) == length(var.zones)
    error_message = "A load balancer needs two zones at least, each named once."
  }
}

variable "network" {
  description = "The address range of the VPC."
  type        = string
  default     = "10.40.0.0/16"
}

variable "hosts" {
  description = "How many hosts run the platform. One holds the stores; more need stores of their own."
  type        = number
  default     = 1
}

variable "instance_type" {
  description = "The kind of machine; one with SGX where enclaves are used."
  type        = string
  default     = "m6i.xlarge"
}

variable "image" {
  description = "The AMI of the hosts: Debian with Docker Engine, the Compose plugin and recoup, by its id."
  type        = string

  validation {
    condition     = startswith(var.image, "ami-")
    error_message = "An AMI's id begins with ami-. A name that is looked up would give another machine on the day."
  }
}

variable "disk_gb" {
  description = "The size of the data disk of each host, in GB."
  type        = number
  default     = 200
}

variable "domain" {
  description = "The hosted zone, such as neo-service-layer.com."
  type        = string
}

variable "host_name" {
  description = "The name users know, in that zone."
  type        = string
  default     = "api"
}

variable "standby" {
  description = "Where users go while the load balancer is not healthy: a load balancer or distribution elsewhere."
  type        = object({ name = string, zone_id = string })
}

variable "certificate" {
  description = "ARN of the certificate of the load balancer."
  type        = string
}

variable "bucket" {
  description = "The bucket of the backups; platform.copies names it. Its copy ends in -copy."
  type        = string
  default     = "neo-service-layer-backups"
}

variable "lock_days" {
  description = "For how many days nobody, the account's root neither, can delete a backup (Object Lock, COMPLIANCE)."
  type        = number
  default     = 14
}

variable "keep_days" {
  description = "After how many days an old version of an object goes."
  type        = number
  default     = 60

  validation {
    condition     = var.keep_days >= 30
    error_message = "Damage is often seen late: keep old versions for 30 days at least."
  }
}

variable "alarm_topic" {
  description = "ARN of the SNS topic that alarms go to."
  type        = string
}
