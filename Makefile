# The same as plain python commands: see README.md.
PYTHON ?= python3
RUN = .venv/bin/python
DEMO = --weights none --size 64 --lr-backbone 1e-3 --lr-head 1e-3 --lr-every 6 --epochs 10
SERIES ?= 600
SEEDS ?= 42
STORY = $(SERIES)$(if $(REVIEWS),-reviews)
# What a run of this code and no other is told by.
CODE = $(shell (echo "$(DEMO)"; cat train_resnet.py model.py data.py make_demo.py run/*.py disk/*.py) | cksum | tr " " -)

.PHONY: demo demo-run story lists test zoo hostile lint

# A folder of an older version is not a failure: it is kept under another name.
define set-older-aside
@if test -e $(1) && test "$$(cat $(1).code 2>/dev/null)" != "$(CODE)"; then \
	older=$$(mktemp -d $(1)-older.XXXXXX) && mv $(1) $$older/ && \
	echo "$(1) was made by other code: it is in $$older now"; fi
@mkdir -p runs && echo "$(CODE)" > $(1).code
endef
resume = $$(test -f $(1)/args.json && echo --resume)

demo: demo-run
	$(RUN) eval.py --run runs/demo --data data/demo
	@echo "and a trainer of somebody else, recorded unchanged and explained:"
	@rm -f runs/stuck.trace
	$(RUN) -m diagnose record --steps 3 --until evaluation --as-is --out runs/stuck.trace examples/stuck.py --data data/demo
	$(RUN) -m diagnose compare runs/stuck.trace --data data/demo || test $$? = 1

demo-run: .venv/installed data/demo
	$(call set-older-aside,runs/demo)
	$(RUN) train_resnet.py --data data/demo $(DEMO) --out runs/demo $(call resume,runs/demo)

# The recipe at its own rates, from what the demo has learned; then docs/story.md.
story: lists demo-run data/second data/story-$(SERIES)
	$(call set-older-aside,runs/second)
	$(RUN) train_resnet.py --data data/second --weights runs/demo/best.pt --size 64 --epochs 1 --out runs/second $(call resume,runs/second)
	$(RUN) eval.py --run runs/second --data data/second
	$(call set-older-aside,runs/story-$(STORY))
	$(RUN) -m examples.story --data data/story-$(SERIES) --weights runs/demo/best.pt --size 64 --seeds $(SEEDS) --learned runs/second --out runs/story-$(STORY) $(if $(REVIEWS),--reviews "$(REVIEWS)")

lists:
	@test -f "$(LISTS)/train_pairlist.txt" -a -f "$(LISTS)/val_pairlist.txt" || { echo \
	"make story LISTS=FOLDER: the folder of train_pairlist.txt and val_pairlist.txt, which are in the dataset's train_val.zip (docs/dataset.md)" >&2; exit 2; }

test: .venv/installed
	@echo "running one test of each kind, in two halves at once, about 10 minutes on 2 cores"
	@.ci/halves $(abspath $(RUN))
	@echo "skipped: what needs the official pairlists (../shared), a GPU, or data of your own (docs: tests/test_my_data.py)"

# Every bug that is planted, in every script; and the tests of which `make test` has one of a kind.
zoo: .venv/installed
	$(RUN) tests/zoo/zoo.py
	$(RUN) tests/test_exits.py
	$(RUN) -m pytest -m full

# What people bring, every table of it.
hostile: .venv/installed
	$(RUN) -m pytest -m "full or not full" tests/test_hostile.py tests/test_refusals.py tests/test_readers.py tests/test_damage.py \
		tests/test_paths.py tests/test_failures.py tests/test_exits.py tests/test_stops.py tests/test_windows.py

lint: .venv/installed
	$(RUN) -m pip install --quiet ruff==0.17.5
	.venv/bin/ruff check . && .venv/bin/ruff format --check .

data/demo: | .venv/installed
	$(RUN) make_demo.py --out data/demo --series 120 --seed 0

data/second: | .venv/installed
	$(RUN) make_demo.py --out data/second --series 120 --seed 1

data/story-$(SERIES): | lists .venv/installed
	$(RUN) make_demo.py --out $@ --series $(SERIES) --like "$(LISTS)/train_pairlist.txt" "$(LISTS)/val_pairlist.txt"

.venv/installed: requirements.txt
	@echo "installing torch and four more packages into .venv (4.8 GB, about a minute) ..."
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet -r requirements.txt
	@touch .venv/installed
