"""The compiled part that was installed."""

from moleflow_fast._compiled import compiled


def test_build_info_says_how_it_was_built() -> None:
    info = compiled.build_info()
    assert set(info) == {"compiler", "openmp", "cuda"}
    assert info["compiler"].split()[0] in ("GNU", "Clang", "AppleClang", "MSVC")
    assert info["cuda"] is None or int(info["cuda"].split(".")[0]) >= 12


def test_it_is_free_of_torch() -> None:
    with open(compiled.__file__, "rb") as file:
        assert b"libtorch" not in file.read()
