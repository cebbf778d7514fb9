"""Names that are fetched when a function needs them: what there is of them before, and what takes their place."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from swarm.core import late_imports as late
from swarm.core.late_imports import LATE, LateName, late_imports
from tests.throwaway import throwaway_package

FILES = {
    "__init__.py": "",
    "well.py": "class Bucket: pass\nclass Dry(Exception): pass\ndef draw(litres): return ['water'] * litres\n",
    "user.py": """
from farm.well import Bucket, Dry as Empty, draw
def water(litres): return draw(litres)
def is_bucket(thing): return isinstance(thing, Bucket)
def careful(error):
    try:
        raise error
    except Empty:
        return 'empty'
    except ValueError:
        return 'wrong'
""",
    "visitor.py": "import well_house\ndef look(): return well_house.depth\n",
    "../well_house.py": "depth = 7\n",
    "other.py": "from farm.well import draw\ndef water(litres): return draw(litres)\n",
    "heir.py": "from farm.well import Bucket\nclass Pail(Bucket): pass\ndef f(x: Bucket | None, y: 'int' = 0): pass\n",
}


@pytest.fixture
def farm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package of whose modules two get their names late."""
    pairs = {("farm.user", "farm.well"), ("farm.heir", "farm.well"), ("farm.visitor", "well_house")}
    monkeypatch.setattr(late, "LATE", pairs)
    monkeypatch.setattr(late, "_EXCEPTIONS", {"Dry"})
    with throwaway_package("farm", FILES, tmp_path, monkeypatch):
        yield
    sys.modules.pop("well_house", None)


def late_module(name: str) -> Any:
    with late_imports():
        return import_module(name)


def test_a_name_is_fetched_when_it_is_used(farm: None) -> None:
    user = late_module("farm.user")
    assert isinstance(user.draw, LateName)
    assert "farm.well" not in sys.modules
    assert user.water(2) == ["water", "water"]
    assert user.draw is sys.modules["farm.well"].draw


def test_whoever_imports_its_home_puts_it_into_place(farm: None) -> None:
    user = late_module("farm.user")
    well = import_module("farm.well")
    assert (user.draw, user.Bucket, user.Empty) == (well.draw, well.Bucket, well.Dry)
    assert user.is_bucket(well.Bucket())
    assert user.careful(well.Dry()) == "empty"


def test_a_module_can_be_late_itself(farm: None) -> None:
    visitor = late_module("farm.visitor")
    assert "well_house" not in sys.modules
    assert visitor.look() == 7
    assert visitor.well_house is sys.modules["well_house"]


def test_an_exception_that_nobody_can_raise_yet_is_not_caught(farm: None) -> None:
    user = late_module("farm.user")
    assert user.careful(ValueError()) == "wrong"
    assert "farm.well" not in sys.modules


def test_what_a_class_is_made_of_is_fetched_at_once(farm: None) -> None:
    heir = late_module("farm.heir")
    assert issubclass(heir.Pail, sys.modules["farm.well"].Bucket)


def test_other_modules_and_other_times_get_the_names_themselves(farm: None) -> None:
    before = __import__
    assert not isinstance(late_module("farm.other").draw, LateName)
    assert __import__ is before
    del sys.modules["farm.well"]
    assert not isinstance(import_module("farm.user").draw, LateName)


def names_outside_of_functions(tree: ast.Module) -> set[str]:
    """The names that the body of a module, or of a class, reads while it is imported."""
    found: set[str] = set()
    annotations_wait = any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in tree.body)

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = node.args
            for read in [*node.decorator_list, *arguments.defaults, *filter(None, arguments.kw_defaults)]:
                walk(read)
            for argument in () if annotations_wait else [*arguments.args, *arguments.kwonlyargs]:
                walk(argument)
            return
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found.add(node.id)
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(tree)
    return found


@pytest.mark.parametrize(("module", "home"), sorted(LATE))
def test_installed_modules_use_late_names_in_functions_only(module: str, home: str) -> None:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text())
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom | ast.Import) and node.col_offset <= 4
        for alias in node.names
        if (node.module if isinstance(node, ast.ImportFrom) else alias.name) == home
    }
    assert names, f"{module} imports nothing of {home} any more"
    assert not names & names_outside_of_functions(tree)


LOADED = """
import sys, swarm
from swarm.core.late_imports import late_imports
with late_imports():
    import torch
    from transformers.models.llama.modeling_llama import LlamaConfig, LlamaForCausalLM
before = torch.compiler.disable
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            "print([name for name in ('torch._dynamo', 'sympy', 'torch.distributed.fsdp') if name in sys.modules], "
            "torch.compiler.disable.__module__, '_dynamo' in vars(torch))",
            "[] torch.compiler False",
        ),
        (
            "import transformers.integrations.deepgemm as gemm, transformers.integrations.finegrained_fp8 as fp8\n"
            "import torch._dynamo as dynamo, transformers.masking_utils as masks\n"
            "from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex as item\n"
            "from torch.distributed.tensor import _collective_utils as utils\n"
            "from torch.fx.experimental.symbolic_shapes import guard_or_false\n"
            "from torch._dynamo import trace_rules\n"
            "print(gemm.is_sm100._dynamo_marked_constant, len(trace_rules._allowed_callable_ids.function_ids) > 0,"
            " masks.TransformGetItemToIndex is item, utils.guard_or_false is guard_or_false)",
            "True True True True",
        ),
        (
            "config = LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, "
            "num_key_value_heads=2, vocab_size=50)\n"
            "model = LlamaForCausalLM(config).eval(); ids = torch.tensor([[3, 1, 4]])\n"
            "compiled = torch.compile(model, backend='eager')\n"
            "with torch.no_grad(): print(torch.allclose(compiled(ids).logits, model(ids).logits, atol=1e-6))",
            "True",
        ),
    ],
)
def test_the_rest_of_torch_is_there_for_whoever_uses_it(script: str, expected: str) -> None:
    """In a process of its own: this one has it already."""
    command = [sys.executable, "-c", LOADED + script]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == expected
