"""The empty control: no rows are added."""

from typing import ClassVar

from pipeline.generators import base
from pipeline.generators._rows import RowGenerator


class Options(base.Options):
    pass


class Model(RowGenerator):
    makes_rows: ClassVar[bool] = False
