# The hosts: Docker, no way in but the gateway, no key pair. Administration goes through SSM.

resource "aws_security_group" "host" {
  name        = "${var.name}-host"
  description = "the gateway from the load balancer"
  vpc_id      = aws_vpc.this.id
}

resource "aws_vpc_security_group_ingress_rule" "gateway" {
  security_group_id            = aws_security_group.host.id
  description                  = "the gateway, from the load balancer alone"
  referenced_security_group_id = aws_security_group.entrance.id
  ip_protocol                  = "tcp"
  from_port                    = 8080
  to_port                      = 8080
}

# Chain endpoints, package and image registries, SSM: all by HTTPS.
resource "aws_vpc_security_group_egress_rule" "https" {
  security_group_id = aws_security_group.host.id
  description       = "HTTPS to registries, chain endpoints and AWS"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_instance" "host" {
  count                  = var.hosts
  ami                    = var.image
  instance_type          = var.instance_type
  subnet_id              = aws_subnet.private[var.zones[count.index % length(var.zones)]].id
  vpc_security_group_ids = [aws_security_group.host.id]
  iam_instance_profile   = aws_iam_instance_profile.host.name
  ebs_optimized          = true
  monitoring             = true
  # A host that is lost is made again on purpose, never by a slip of the hand.
  disable_api_termination = true

  metadata_options {
    http_endpoint = "enabled"
    http_tokens   = "required"
    # Two: a program in a container is one hop further away.
    http_put_response_hop_limit = 2
  }

  root_block_device {
    encrypted   = true
    kms_key_id  = aws_kms_key.first.arn
    volume_size = 30
  }

  tags = { Name = "${var.name}-${count.index + 1}" }

  lifecycle {
    # A newer image is rolled out by hand: it would take the host, and whoever is on it, away.
    ignore_changes = [ami]
  }
}

# The data have a disk of their own, which outlives its host.
resource "aws_ebs_volume" "data" {
  count             = var.hosts
  availability_zone = var.zones[count.index % length(var.zones)]
  size              = var.disk_gb
  type              = "gp3"
  encrypted         = true
  kms_key_id        = aws_kms_key.first.arn
  tags              = { Name = "${var.name}-data-${count.index + 1}" }

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_volume_attachment" "data" {
  count       = var.hosts
  device_name = "/dev/sdf"
  volume_id   = aws_ebs_volume.data[count.index].id
  instance_id = aws_instance.host[count.index].id
}
