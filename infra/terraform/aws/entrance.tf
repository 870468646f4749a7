# How users come in: a name that fails over, a load balancer, and no other way.

resource "aws_security_group" "entrance" {
  name        = "${var.name}-entrance"
  description = "HTTPS from everywhere to the load balancer"
  vpc_id      = aws_vpc.this.id
}

resource "aws_vpc_security_group_ingress_rule" "https" {
  security_group_id = aws_security_group.entrance.id
  description       = "HTTPS from users"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "to_gateway" {
  security_group_id            = aws_security_group.entrance.id
  description                  = "to the gateway on the hosts"
  referenced_security_group_id = aws_security_group.host.id
  ip_protocol                  = "tcp"
  from_port                    = 8080
  to_port                      = 8080
}

resource "aws_lb" "this" {
  #checkov:skip=CKV2_AWS_28:What a firewall may turn away is the platform's decision; README.md names it as missing
  name                       = var.name
  load_balancer_type         = "application"
  subnets                    = [for one in aws_subnet.public : one.id]
  security_groups            = [aws_security_group.entrance.id]
  drop_invalid_header_fields = true
  enable_deletion_protection = true

  access_logs {
    bucket  = aws_s3_bucket.logs.id
    prefix  = "entrance"
    enabled = true
  }
}

resource "aws_lb_target_group" "gateway" {
  name        = "${var.name}-gateway"
  port        = 8080
  protocol    = "HTTP"
  vpc_id      = aws_vpc.this.id
  target_type = "instance"

  health_check {
    path                = "/health"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }
}

resource "aws_lb_target_group_attachment" "gateway" {
  count            = var.hosts
  target_group_arn = aws_lb_target_group.gateway.arn
  target_id        = aws_instance.host[count.index].id
}

resource "aws_lb_listener" "https" {
  load_balancer_arn = aws_lb.this.arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = var.certificate

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.gateway.arn
  }
}

data "aws_route53_zone" "this" {
  name = var.domain
}

# Asked from outside, as users come in, and by the load balancer's own name: that of the users may point elsewhere.
resource "aws_route53_health_check" "entrance" {
  fqdn              = aws_lb.this.dns_name
  port              = 443
  type              = "HTTPS"
  resource_path     = "/health"
  enable_sni        = true
  request_interval  = 10
  failure_threshold = 3
}

resource "aws_route53_record" "first" {
  zone_id         = data.aws_route53_zone.this.zone_id
  name            = var.host_name
  type            = "A"
  set_identifier  = "first"
  health_check_id = aws_route53_health_check.entrance.id

  failover_routing_policy {
    type = "PRIMARY"
  }

  alias {
    name                   = aws_lb.this.dns_name
    zone_id                = aws_lb.this.zone_id
    evaluate_target_health = true
  }
}

resource "aws_route53_record" "second" {
  zone_id        = data.aws_route53_zone.this.zone_id
  name           = var.host_name
  type           = "A"
  set_identifier = "second"

  failover_routing_policy {
    type = "SECONDARY"
  }

  # The last resort is never taken away: what would users be sent to instead?
  alias {
    name                   = var.standby.name
    zone_id                = var.standby.zone_id
    evaluate_target_health = false
  }
}

resource "aws_cloudwatch_metric_alarm" "no_host" {
  alarm_name          = "${var.name}-no-healthy-host"
  alarm_description   = "Complete platform unavailability: recoup recover platform"
  namespace           = "AWS/ApplicationELB"
  metric_name         = "HealthyHostCount"
  statistic           = "Minimum"
  period              = 60
  evaluation_periods  = 2
  threshold           = 1
  comparison_operator = "LessThanThreshold"
  treat_missing_data  = "breaching"
  alarm_actions       = [var.alarm_topic]

  dimensions = {
    LoadBalancer = aws_lb.this.arn_suffix
    TargetGroup  = aws_lb_target_group.gateway.arn_suffix
  }
}
