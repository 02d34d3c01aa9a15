"""One kind of resource, as the AWS double knows it."""


class Kind:
    """`create` answers what the state needs and only AWS knows, `read` what may have changed since (None: it is gone)."""

    def create(self, aws, planned):
        raise NotImplementedError

    def read(self, aws, state):
        return {}

    def update(self, aws, prior, planned):
        changed = {name for name in planned if planned[name] != prior.get(name)}
        # Tags are told apart from what matters; nothing else is changed in place by these stacks.
        if changed - {"tags", "tags_all"}:
            raise NotImplementedError(f"the double does not change {sorted(changed)} in place")
        return prior

    def delete(self, aws, state):
        raise NotImplementedError


def tags(planned):
    return [{"Key": key, "Value": value} for key, value in (planned.get("tags_all") or {}).items()]


def tagged(kind, planned):
    given = tags(planned)
    return [{"ResourceType": kind, "Tags": given}] if given else []


def arguments(**given):
    """Those that are set."""
    return {name: value for name, value in given.items() if value not in (None, [], {})}
