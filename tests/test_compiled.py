"""The compiled part that was installed."""

import ast
from pathlib import Path

import moleflow_fast
from moleflow_fast._compiled import compiled

STUB = Path(moleflow_fast.__file__).with_name("_C.pyi")


def arguments(definitions: list[ast.stmt]) -> dict[str, list[str]]:
    functions = [d for d in definitions if isinstance(d, ast.FunctionDef)]
    return {f.name: [a.arg for a in (*f.args.posonlyargs, *f.args.args)] for f in functions}


def test_build_info_says_how_it_was_built() -> None:
    info = compiled.build_info()
    assert set(info) == {"compiler", "openmp"}
    assert info["compiler"].split()[0] in ("GNU", "Clang", "AppleClang", "MSVC")


def test_it_is_free_of_torch() -> None:
    with open(compiled.__file__, "rb") as file:
        assert b"libtorch" not in file.read()


def test_the_stub_names_its_functions_and_their_arguments() -> None:
    """Types depend on pybind11's version; `make stubs` writes them."""
    signatures = [f.__doc__.splitlines()[0] for n, f in vars(compiled).items() if not n.startswith("_")]
    compiled_ones = arguments([ast.parse(f"def {signature}: ...").body[0] for signature in signatures])
    assert len(compiled_ones) == len(signatures) > 20
    assert arguments(ast.parse(STUB.read_text()).body) == compiled_ones
