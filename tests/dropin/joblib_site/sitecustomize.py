"""Makes the backend known in every process that joblib's own tests start; see `joblib_plugin.py`."""

import mpsteal

mpsteal.register_joblib()
