"""What can go wrong with a compiler."""


class ToolchainError(RuntimeError):
    """A tool is missing, or a compiler or linker refused.

    The message says what to do, or the first error of the tool.
    """


class DoesNotFit(ToolchainError):
    """The program is larger than the flash or RAM of the board."""
