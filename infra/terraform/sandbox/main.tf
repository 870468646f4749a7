# What a sandbox stands on: a Docker network and volumes, or the directories of the process sandbox. Built-in resources
# only, so everything here runs without a provider and without a network: place.sh makes and removes what is real.

terraform {
  required_version = ">= 1.4"
}

locals {
  docker = var.stack == "compose"
  places = merge(
    { for name in var.networks : "network-${name}" => { kind = "network", name = "${var.prefix}${name}", owner = "" } },
    { for name in var.volumes : "volume-${name}" => { kind = "volume", name = "${var.prefix}${name}", owner = "" } },
    {
      for name, owner in var.directories :
      "directory-${name}" => { kind = "directory", name = "${var.root}/${name}", owner = owner }
    },
  )
}

resource "terraform_data" "place" {
  for_each = local.places

  # A place that is to be another one is made anew; nothing of it can be changed where it stands.
  triggers_replace = merge(each.value, { sandbox = var.sandbox })
  input            = merge(each.value, { sandbox = var.sandbox })

  lifecycle {
    precondition {
      condition     = local.docker == (each.value.kind != "directory")
      error_message = "networks and volumes belong to stack \"compose\", directories to stack \"process\""
    }
  }

  provisioner "local-exec" {
    command = "sh ${path.module}/place.sh make"
    environment = {
      KIND    = self.input.kind
      NAME    = self.input.name
      SANDBOX = self.input.sandbox
      OWNER   = self.input.owner
    }
  }

  # Terraform lets a provisioner of destruction see nothing but the resource itself; whose it is stands in there.
  provisioner "local-exec" {
    when    = destroy
    command = "sh ${path.module}/place.sh remove"
    environment = {
      KIND    = self.input.kind
      NAME    = self.input.name
      SANDBOX = self.input.sandbox
    }
  }
}
