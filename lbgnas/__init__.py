"""lbgnas: differentiable architecture search that learns groups."""

from lbgnas._version import __version__ as __version__
