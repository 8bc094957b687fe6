"""Export: any trained adapter as an ordinary LoRA checkpoint of PEFT, or merged into a plain checkpoint; and back.

Both are exact. Every member of the family is a pair A B for each projection (see `factorizations`), and a LoRA is
nothing else, so no decomposition and no approximation is involved.
"""

from tensloradist.export.import_peft import from_peft
from tensloradist.export.run import FORMS, export_run

__all__ = ["FORMS", "export_run", "from_peft"]
