from tests.hub.processes import hub, no_faults_left  # noqa: F401
from tests.hub.repositories import adapter  # noqa: F401
