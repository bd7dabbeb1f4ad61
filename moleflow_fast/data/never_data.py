"""What is never data, wherever it lies: files of the system and of tools, and what we wrote ourselves."""

from __future__ import annotations

from pathlib import Path

# In lower case. Names that begin with a dot (.DS_Store, ._x.png, .ipynb_checkpoints, .git) count besides.
_NAMES = frozenset(
    {
        "thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "folder.htt",
        "autorun.inf", "picasa.ini", "icon\r", "lost+found", "$recycle.bin", "recycler", "recycled", "found.000",
        "system volume information", "__macosx", "network trash folder", "temporary items", "@eadir", "@tmp",
        "@synoresource", "@syno_resource", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@transcode",
        "__pycache__", "__thumbs__", "~snapshot", "aquota.user", "aquota.group", "cvs",
    }
)  # fmt: skip
_PREFIXES = (".", "~$", "~syncthing~", "$recycle.bin")
_SUFFIXES = ("~", ".crdownload", ".part", ".partial", ".filepart")  # editors' copies, downloads that did not end


def is_never_data(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or of the system or a tool."""
    lower = name.casefold()
    return lower in _NAMES or lower.startswith(_PREFIXES) or lower.endswith(_SUFFIXES)


def is_own_output(folder: Path) -> bool:
    """A run directory, or the pictures of a folder that `predict` wrote."""
    if folder.name == "pictures" and (folder.parent / "scores.jsonl").is_file():
        return True
    return (folder / "config.json").is_file() and (folder / "checkpoints").is_dir()
