# An example. Each sandbox is given its own by recoup (tasks/sandbox_terraform.py).
sandbox  = "by-hand"
stack    = "compose"
prefix   = "recoup-by-hand_"
networks = ["default"]
volumes  = ["postgres-data", "redis-data"]
