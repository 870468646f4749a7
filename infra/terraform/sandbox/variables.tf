variable "sandbox" {
  description = "The sandbox's id. What is made is labelled with it, and nothing without that label is ever removed."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{2,30}$", var.sandbox))
    error_message = "A sandbox's id has 3 to 31 lower-case letters, digits and dashes."
  }
}

variable "stack" {
  description = "What runs the services: \"compose\" (a Docker network and volumes) or \"process\" (directories)."
  type        = string

  validation {
    condition     = contains(["compose", "process"], var.stack)
    error_message = "The stack is \"compose\" or \"process\"."
  }
}

variable "prefix" {
  description = "What the names of networks and volumes begin with."
  type        = string
  default     = ""
}

variable "networks" {
  description = "Docker networks, by name after the prefix."
  type        = set(string)
  default     = []
}

variable "volumes" {
  description = "Docker volumes, by name after the prefix."
  type        = set(string)
  default     = []
}

variable "root" {
  description = "The directory in which the directories are made; absolute."
  type        = string
  default     = "/nowhere"

  validation {
    condition     = startswith(var.root, "/")
    error_message = "The root is an absolute path."
  }
}

variable "directories" {
  description = "Directories, relative to the root, with whom each belongs to; empty: whoever applies."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.directories) : can(regex("^[a-z0-9][a-z0-9/-]*$", name))])
    error_message = "A directory has lower-case letters, digits, dashes and slashes."
  }
}
