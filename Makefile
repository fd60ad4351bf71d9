# For developers; scripts/test makes .venv first.
BIN := .venv/bin

.PHONY: check format test clean

check:  ## what must be clean before a commit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict metanmt

format:  ## mend what can be mended automatically
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test:
	scripts/test

clean:  ## remove caches and build outputs; keeps .venv and runs
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache *.egg-info
	find metanmt tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
