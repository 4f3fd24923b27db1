# `make` alone says what there is.

.DEFAULT_GOAL := help
.PHONY: help check test sim programs differential fuzz chaos generate lint build image up down bench

help: ## print this
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

check: ## what CI runs
	.ci/run

test: ## the tests, with the race detector
	go test -race ./...

SEEDS ?= 20000
FIRST ?= 1

sim: ## simulate clusters from SEEDS seeds (20000), from FIRST (1) on, with BREAK=NAME on broken code
	go test ./replica -v -count=1 -timeout 0 -run '^TestSimulation$$' -progress -seeds=$(SEEDS) -first=$(FIRST) $(if $(BREAK),-break=$(BREAK))

programs: SEEDS = 200
programs: ## run SEEDS random programs of storage calls (200), from FIRST (1) on, on one node and on three that are killed
	go test ./test/conformance -v -count=1 -timeout 0 -run '^TestPrograms$$' -progress -programs=$(SEEDS) -first=$(FIRST)

WORKERD_VERSION = 1.20261117.1

differential: ## compare workers with workerd, from npm, in hundreds of cases
	npm install --no-audit --no-fund --no-save --ignore-scripts --prefix build/differential workerd@$(WORKERD_VERSION)
	HOLDFAST_WORKERD=$$(ls $(CURDIR)/build/differential/node_modules/@cloudflare/workerd-*/bin/workerd) go test -count=1 -run Differential ./worker

FUZZTIME ?= 30s

fuzz: ## fuzz every decoder, each for FUZZTIME (30s)
	scripts/fuzz $(FUZZTIME)

NODES ?= 3
FOR ?= 10m
SEED ?= 0

chaos: ## containers under load and faults: FOR a time (10m), NODES 3 or 5, SEED to repeat one; table and timeline
	go run ./test/e2e/chaos -nodes=$(NODES) -for=$(FOR) -seed=$(SEED)

generate: ## generate Go code from the .proto files, and the JavaScript of workers (needs protoc and npm)
	scripts/generate

lint: ## golangci-lint with the pinned version (the first build takes minutes)
	go tool -modfile=tools/go.mod golangci-lint run

build: ## build the static binary build/holdfast
	CGO_ENABLED=0 go build -trimpath -o build/holdfast ./cmd/node

image: build ## build the container image holdfast from the static binary
	docker build -t holdfast .

up: image ## start three nodes with docker-compose
	docker-compose up -d

down: ## stop them; their data stays (docker-compose down -v deletes it)
	docker-compose down

bench: ## measure calls, writes and memory, and print the table
	go run ./bench
