# quotad. Every target is one command; `make` alone lists them. A fresh machine
# needs Go, git and make; the tools that lint, proto and slowest use are pinned
# in tools/go.mod and built on first use (two minutes, once).

GO       ?= go
TOOL     := $(GO) tool -modfile=tools/go.mod
BUF      := $(TOOL) buf
FUZZTIME ?= 30s
AGAINST  ?= HEAD~1
.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo test race long fuzz bench gobench test-root slowest
demo: ## watch a real quotad live through a day, a crash included
	$(GO) run ./cmd/quotademo
test: ## the fast tier: every promise, within 90 s
	$(GO) test -timeout 5m ./...
race: ## the fast tier under the race detector, in another order (needs a C compiler)
	$(GO) test -race -shuffle=on -timeout 15m ./...
long: ## the long tier: more seeds, more kills, every zone
	QUOTAD_LONG=1 $(GO) test -count=1 -timeout 2h ./...
fuzz: ## each fuzz target for FUZZTIME (30s)
	@grep -rEo '^func Fuzz[A-Za-z0-9_]+' --include='*_test.go' . | sed 's/:func / /' | while read -r file name; do \
		echo "== $$name"; $(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")" || exit 1; done
bench: ## quotad against an echo server, and the disk's own price
	$(GO) run ./cmd/quotabench suite
gobench: ## the Go benchmarks
	$(GO) test -run '^$$' -bench . -benchmem ./...
test-root: ## as root: packages and images lived with, and what else needs root (minutes)
	QUOTAD_ROOT=1 $(GO) test -count=1 -timeout 15m $$(grep -rl --include='*_test.go' QUOTAD_ROOT . | xargs -n 1 dirname | sort -u)
slowest: ## which tests use up the fast tier's 90 s
	$(GO) test -count=1 -json ./... | $(TOOL) gotestsum tool slowest --num 20

.PHONY: fmt fmt-check lint proto proto-python proto-check
fmt: ## format the Go files (gofumpt, imports in groups) and the proto files
	$(TOOL) golangci-lint fmt && $(BUF) format --write
fmt-check: ## gofumpt, go mod tidy and go vet find nothing to do
	@unformatted=$$($(TOOL) gofumpt -l .) && { [ -z "$$unformatted" ] || { echo "not formatted (make fmt):"; echo "$$unformatted"; exit 1; }; }
	$(GO) mod tidy -diff
	$(GO) vet ./...
lint: ## golangci-lint; LINTFLAGS=--fix mends what it can
	$(TOOL) golangci-lint run $(LINTFLAGS) ./...
proto: ## write gen/ anew from proto/
	$(BUF) generate
proto-python: ## write the stubs of examples/django anew (needs protoc and grpc_python_plugin: examples/setup)
	cd examples/django && $(GO) tool -modfile=$(CURDIR)/tools/go.mod buf generate
proto-check: ## the contract: linted, formatted, unbroken since AGAINST (HEAD~1), gen/ up to date
	$(BUF) lint
	$(BUF) format --diff --exit-code
	@rm -rf .tmp && mkdir -p .tmp/old
	@if git cat-file -e $(AGAINST):buf.yaml 2>/dev/null && git cat-file -e $(AGAINST):proto 2>/dev/null; then \
		git archive $(AGAINST) buf.yaml proto | tar -x -C .tmp/old && echo "buf breaking, against $(AGAINST)" && $(BUF) breaking --against .tmp/old; \
	else echo "buf breaking: skipped, as $(AGAINST) is not in this clone or has no contract"; fi
	@$(BUF) generate --output .tmp && diff -r .tmp/gen gen || { echo "gen/ is not what proto/ says (make proto)"; exit 1; }
	@rm -rf .tmp

.PHONY: release deb image sbom vuln
release: ## reproducible binaries for linux into dist/, with SBOMs; VERSION=v1.2.3 has to be the tag
	VERSION=$(VERSION) deploy/release/build
deb: release ## the Debian packages (needs dpkg-deb)
	deploy/debian/build
image: release ## the container images, as OCI archives (needs buildah, and no daemon)
	deploy/image/build
sbom: ## what bin/quotad is made of, as CycloneDX
	@CGO_ENABLED=0 $(GO) build -trimpath -o bin/quotad ./cmd/quotad && $(GO) run ./deploy/release/sbom bin/quotad
vuln: ## ask Go's vulnerability database (needs the network)
	deploy/release/vulncheck

.PHONY: kubernetes-check
kubernetes-check: ## the chart and the manifests, rendered and held to their rules (builds helm, once)
	@rm -rf .tmp/rendered
	cd deploy/kubernetes/check && $(GO) mod tidy -diff && $(GO) vet . && $(GO) run . -out $(CURDIR)/.tmp/rendered
	QUOTAD_RENDERED=$(CURDIR)/.tmp/rendered $(GO) test -count=1 -run '^(TestKubernetesFiles|TestChartKeys)$$' ./deploy
	@rm -rf .tmp/rendered

.PHONY: build install ci clean
build: ## static binaries into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/...
install: ## quotad and quotactl into Go's bin directory
	CGO_ENABLED=0 $(GO) install -trimpath ./cmd/quotad ./cmd/quotactl
ci: ## all that CI runs
	.ci/run
clean: ## remove what these targets leave behind
	rm -rf bin dist .tmp
