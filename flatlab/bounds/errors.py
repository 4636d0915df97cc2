"""What can go wrong with bounds, by name."""


class UnsupportedOperator(NotImplementedError):
    """An operator that would have to be bounded has no rule; the message says which, where, and how to add one."""


class DomainError(ValueError):
    """The interval of an operator's input leaves the operator's domain, such as the logarithm's."""


class MemoryLimitExceeded(RuntimeError):
    """Bounding would need more memory than the limit that was set."""
