"""What a recovery of chains would do, said line by line, and nothing of it done."""

from __future__ import annotations

from flows.blockchain import BlockchainRecovery
from recoup.addresses import shown
from recoup.plan import Plan
from recoup.stacks import open_stack
from tasks.chain_switch import chains_of, choose_of, see_chains, users_of


def preview(plan: Plan, request: BlockchainRecovery) -> tuple[str, ...]:
    """Probe the endpoints and give, line by line, what a recovery would do; changes nothing."""
    stack = open_stack(plan)
    found = see_chains(plan, stack, request.chains)
    chosen = choose_of(plan, found, request.back)
    lines = [one.why for one in chosen.choices]
    if not chosen.switching:
        return (*lines, "nothing would be switched" if chosen.without else "nothing would be switched; all is checked")
    chains = chains_of(plan)
    wanted = {chains[one.chain].variable: one.use for one in chosen.switching}
    lines += [
        f"write {name}={shown(url)} into {stack.env_file}, the old file kept beside" for name, url in wanted.items()
    ]
    users = users_of(plan, stack, wanted, {chains[one.chain].variable: one.was for one in chosen.switching})
    lines += [f"docker compose up --detach --no-deps --force-recreate {user}" for user in users]
    return (*lines, "check the gateway as a user, the chains, and what the stores hold; put the old file back if worse")
