# The same as plain python commands: see README.md.
PYTHON ?= python3
RUN = .venv/bin/python
DEMO = --data data/demo --weights none --size 64 --lr-backbone 1e-3 --lr-head 1e-3 --lr-every 6 --epochs 10

.PHONY: demo test zoo lint

demo: .venv/installed data/demo
	$(RUN) train_resnet.py $(DEMO) --out runs/demo $(if $(wildcard runs/demo/args.json),--resume)
	$(RUN) eval.py --run runs/demo --data data/demo
	@echo "and a trainer of somebody else, recorded unchanged and explained:"
	@rm -f runs/stuck.trace
	$(RUN) diagnose/record.py --steps 3 --out runs/stuck.trace examples/stuck.py --data data/demo
	$(RUN) -m diagnose.compare runs/stuck.trace --data data/demo || test $$? = 1

# Two halves at once, a core each; the same one after the other: python -m pytest
test: .venv/installed
	@OMP_NUM_THREADS=1 $(RUN) -m pytest tests/test_compare.py >.venv/compare.log 2>&1 & compare=$$!; \
	OMP_NUM_THREADS=1 $(RUN) -m pytest --ignore=tests/test_compare.py; rest=$$?; \
	wait $$compare; compare=$$?; cat .venv/compare.log; test $$compare$$rest = 00

zoo: .venv/installed
	$(RUN) tests/zoo/zoo.py

lint: .venv/installed
	$(RUN) -m pip install --quiet ruff==0.17.5
	.venv/bin/ruff check . && .venv/bin/ruff format --check .

data/demo: | .venv/installed
	$(RUN) make_demo.py --out data/demo --series 120 --seed 0

.venv/installed: requirements.txt
	@echo "installing torch and four more packages into .venv (4.8 GB, about a minute) ..."
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet -r requirements.txt
	@touch .venv/installed
