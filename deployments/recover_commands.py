"""The command recoup recover: one procedure for each kind of component."""

from __future__ import annotations

import typer

from deployments.blockchain_commands import recover_blockchain_command
from deployments.configuration_commands import recover_configuration_command
from deployments.enclave_commands import recover_enclave_command
from deployments.platform_commands import recover_platform_command
from deployments.redis_commands import recover_redis_command
from deployments.run_commands import recover_database_command
from deployments.service_commands import recover_service_command

recover = typer.Typer(no_args_is_help=True, help="Recover a component by the plan's procedure.")
recover.command("database")(recover_database_command)
recover.command("redis")(recover_redis_command)
recover.command("configuration")(recover_configuration_command)
recover.command("service")(recover_service_command)
recover.command("blockchain")(recover_blockchain_command)
recover.command("enclave")(recover_enclave_command)
recover.command("platform")(recover_platform_command)
