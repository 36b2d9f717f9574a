"""A pocket interpreter: small Triton kernels on the CPU, program by program, their addresses noted.

Two uses, both in notebook 10. `trace` and `watching` run kernels, say which places of which tensor each
program read and wrote, and refuse a place outside the tensor; Triton's own interpreter does neither. And
where Triton cannot run (there is none for macOS), `triton` and `tl` from here are a stand-in that knows its
commonest words, so that the same notebook runs, and its exercises are checked, on every machine.

It gives what Triton gives: whole numbers have 32 bits and // and % round towards zero, `tl.maximum` prefers
a number to a NaN, += makes a new block. It differs in this:

- It knows only the words in `words.py`, and refuses others.
- Where a load's mask is false and there is no `other`, the value is undefined. Triton's interpreter gives 0
  and a GPU what it likes; here it is NaN, or the largest whole number, so that it shows.
- Dtypes mix as in torch: float16 times a float32 argument stays float16, in Triton it is float32.
- float16 is added up by torch, which rounds once at the end.
- Programs run one after the other, the last axis of the grid fastest. So they do in Triton's interpreter.

It is for teaching, on tensors of a few thousand numbers.
"""

from types import SimpleNamespace

from ..kernels import _frame
from .memory import Access, Trace
from .run import Kernel, jit, trace, watching
from .words import language

# What a notebook imports: of Triton where it can run, else of this package.
tl = _frame.tl if _frame.TRITON else language
triton = SimpleNamespace(
    jit=jit, cdiv=lambda a, b: -(-a // b), next_power_of_2=lambda n: 1 << (n - 1).bit_length()
)

__all__ = ["Access", "Kernel", "Trace", "jit", "language", "tl", "trace", "triton", "watching"]
