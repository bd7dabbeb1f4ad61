"""Templates of pages that need nothing else: what they show is escaped, unless it says that it is markup."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup


def template(package: str, name: str) -> Template:
    """A template that lies in `package`; it extends `page.html` of this package.

    Inside, `text("NAME")` is a style or a script of either package as it stands.

    Raises:
        jinja2.TemplateNotFound: there is none.
    """
    return _environment(package).get_template(name)


@cache
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("moleflow_fast.pages", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["text"] = _text(environment)
    return environment


def _text(environment: Environment) -> Callable[[str], Markup]:
    """Braces of a style or a script are not those of a template: it is put in unread."""

    def text(name: str) -> Markup:
        assert environment.loader is not None
        return Markup(environment.loader.get_source(environment, name)[0])

    return text
