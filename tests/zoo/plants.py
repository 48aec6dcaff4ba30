"""What is planted into the trainers of the zoo, as their --plant takes it."""


class Plants(dict):
    """{name: value or None} of what is planted, as NAME or NAME=VALUE; kept: of this run."""

    def __init__(self, words, names):
        pairs = [word.partition("=") for word in words]
        super().__init__((name, float(value) if value else None) for name, _, value in pairs)
        self.kept = {"followed": 0, "figures": [], "states": [], "right": []}
        unknown = self.keys() - set(names)
        if unknown:
            raise SystemExit(f"no such plants: {sorted(unknown)}")

    def __and__(self, names):
        return self.keys() & names

    def value(self, name, usual):
        """The value of a plant; usual: where none is given."""
        return usual if self.get(name) is None else self[name]
