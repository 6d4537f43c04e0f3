"""Which models of a family each Auto class loads, named in every folder that is saved.

In:   the table `auto_classes` of a family's base class, and the model that is saved
Out:  ``auto_map`` of the saved configuration, which Transformers reads where this package is not installed
To:   the base classes of all models
"""

from typing import ClassVar


class FamilyAutoClasses:
    """For the base class of a family: a folder saved from one of its models names the whole family.

    Transformers names only the class that is saved, so that a folder would lose the heads of its family on the Hub.
    """

    # For each Auto class the models that it may load, the usual one first. All are defined beside the base class.
    auto_classes: ClassVar[dict[str, tuple[str, ...]]] = {}

    def save_pretrained(self, *args, **kwargs):
        """As in Transformers; the configuration names the models that each Auto class loads from the folder."""
        family = next(base for base in type(self).__mro__ if "auto_classes" in vars(base))
        module = family.__module__.split(".")[-1]
        auto_map = dict(getattr(self.config, "auto_map", None) or {})
        for auto_class, names in self.auto_classes.items():
            # A folder of an unusual member, such as a segmenter alone, is loaded as what it holds.
            name = type(self).__name__ if type(self).__name__ in names else names[0]
            auto_map[auto_class] = f"{module}.{name}"
        self.config.auto_map = auto_map
        return super().save_pretrained(*args, **kwargs)


__all__ = ["FamilyAutoClasses"]
