"""The one exception a user's mistake raises."""


class UserError(Exception):
    """A mistake in params, data or files, told in one sentence that names what, where and what is allowed.

    The command line prints the sentence and exits with status 2; a notebook shows it without a traceback.
    """

    def _render_traceback_(
        self,
    ) -> list[str]:  # IPython asks an exception for this before it draws a traceback
        return [f"clipreid: {self}"]
