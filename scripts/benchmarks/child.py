"""A process that calls one function and prints its result: `python -m scripts.benchmarks.child MODULE FUNCTION JSON`.

Nothing heavy is imported before the function runs, so that the function can measure imports.
"""

import importlib
import json
import sys

if __name__ == '__main__':
    _, module, function, arguments = sys.argv
    result = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    print(json.dumps(result))
