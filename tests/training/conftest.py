from tests.fresh_accelerator import new_accelerator_state  # noqa: F401
