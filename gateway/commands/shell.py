"""`runlane completion` and `runlane version`"""

import click
from click.shell_completion import get_completion_class

import handler_sdk


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script by which SHELL completes the commands.

    bash: eval "$(runlane completion bash)" in ~/.bashrc; zsh: the same in ~/.zshrc; fish: runlane completion fish >
    ~/.config/fish/completions/runlane.fish
    """
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101  # these three come with click
    click.echo(found(context.find_root().command, {}, "runlane", "_RUNLANE_COMPLETE").source())


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"runlane {handler_sdk.__version__}")
