"""Edits single images from Python, as the job would, without shards, files or Ray."""

from pipeline.editor.editor import Editor
from pipeline.editor.result import EditResult

__all__ = ["EditResult", "Editor"]
