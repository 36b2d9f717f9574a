"""cambook: the library beside an executable book on class activation maps.

Import what you need from its modules, for example ``from cambook import models, methods``. This file imports
nothing, so that ``python -m cambook doctor`` can still speak when torch is broken.
"""

__version__ = "0.1.0"
