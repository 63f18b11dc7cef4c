"""What can go wrong before a task runs."""


class AgentError(Exception):
    """The text says what, for people.

    AgentError
    ├── ConfigurationError    the command line or the environment
    ├── RegistrationError     the server does not want this agent, or makes no sense
    ├── NoServerError         there is no server, or it cannot register anybody now
    └── DeploymentError       the code cannot be had, or not be installed
    """


class ConfigurationError(AgentError):
    """The command line or the environment."""


class RegistrationError(AgentError):
    """The server does not want this agent, or makes no sense."""


class NoServerError(AgentError):
    """There is no server, or it cannot register anybody now."""


class DeploymentError(AgentError):
    """The code cannot be had, or not be installed."""
