"""JSONata as Step Functions evaluates it: the reference implementation, with the variables of a state machine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from support.synthesis import REPOSITORY


def bare(expression: str) -> str:
    """Take the expression out of its marks."""
    return expression.removeprefix("{%").removesuffix("%}")


def by_reference(cases: Sequence[Mapping[str, Any]], expression: str, *, carried: str = "") -> list[Any]:
    """
    Evaluate *expression* with JSONata 2.0.6, the release that Step Functions documents.

    Args:
        cases: Variables, by name without the `$`; the answers come in the same order.
        expression: Without its marks.
        carried: A variable that each answer becomes for the next case, as in a loop of states. Default: none.
    """
    script = """
      const jsonata = require("jsonata");
      const [text, cases, carried] = JSON.parse(require("fs").readFileSync(0, "utf8"));
      const expression = jsonata(text);
      expression.registerFunction("parse", JSON.parse, "<s:j>");  // Step Functions' own
      (async () => {
        const answers = [];
        for (const bindings of cases) {
          if (carried && answers.length) bindings[carried] = answers[answers.length - 1];
          answers.push(await expression.evaluate(null, bindings) ?? null);
        }
        console.log(JSON.stringify(answers));
      })();
    """
    done = subprocess.run(
        ["node", "-e", script],
        input=json.dumps([expression, cases, carried]),
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    answers: list[Any] = json.loads(done.stdout)
    return answers
