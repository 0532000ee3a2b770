"""JSON Schema of sweep files and presets, from the models that check them.

An editor finds misspelled keys and offers the known ones. Rules between keys are checked by
`tbn-bench sweep FILE --dry-run`.
"""

from typing import Any

from tbn_bench.config import SHELF_OF, RunConfig
from tbn_bench.sweep.distributions import KINDS
from tbn_bench.sweep.schema import File

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DOTTED = f"^({'|'.join(SHELF_OF)})[.]"  # binarizer.p
_TEXT = {"type": "string"}
_ANYTHING: Schema = {}


def preset() -> Schema:
    """Of a YAML preset (--config): fields of RunConfig, options of calls by dotted names."""
    fields = RunConfig.model_json_schema()
    properties = fields["properties"]
    numbers = [{"type": "number"}, {"type": "integer"}]
    properties["keep"] = {"anyOf": [properties["keep"], _TEXT]}
    properties["precision"] = {"anyOf": [properties["precision"], *numbers]}
    properties["plugins"] = {"type": "array", "items": _TEXT}
    fields["patternProperties"] = {_DOTTED: _ANYTHING}
    return {"$schema": DIALECT, **fields, "title": "tbn-bench preset"}


def sweep() -> Schema:
    """Of a sweep file: W&B's keys, and a distribution for each parameter."""
    file = File.model_json_schema()
    file["properties"]["parameters"] = {"$ref": "#/$defs/Parameters"}
    definitions = file["$defs"]
    definitions["Parameters"] = _parameters()
    definitions["Parameter"] = _parameter()
    return {"$schema": DIALECT, **file, "title": "tbn-bench sweep file"}


def _parameters() -> Schema:
    """Parameter name -> how it varies. Nested ones are dotted names in another spelling."""
    one: Schema = {"$ref": "#/$defs/Parameter"}
    known: dict[str, Schema] = {}
    for name, field in RunConfig.model_fields.items():
        known[name] = one | {"description": field.description}
    nested = {
        "type": "object",
        "properties": {"parameters": {"type": "object"}},
        "required": ["parameters"],
        "additionalProperties": False,
    }
    for name in SHELF_OF:
        known[name] = {"anyOf": [known[name], nested]}
    return {
        "type": "object",
        "properties": known,
        "patternProperties": {_DOTTED: one},
        "additionalProperties": False,
        "minProperties": 1,
    }


def _parameter() -> Schema:
    keys: dict[str, Schema] = {}
    kinds = KINDS.values()
    for kind in kinds:
        for name in kind.model_fields:
            keys[name] = _ANYTHING
    keys["values"] = {"type": "array", "minItems": 1}
    keys["distribution"] = {"enum": sorted(KINDS)}
    return {"type": "object", "properties": keys, "additionalProperties": False}
