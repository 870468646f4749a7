"""The sandbox platform: a small real gateway, two microservices and two RPC stand-ins, one package, one role each."""
