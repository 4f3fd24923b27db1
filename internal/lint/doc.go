// Package lint has the rules of this repository that general linters do not know, as tests: every
// package says what it is for, packages import what the map of docs/ARCHITECTURE.md allows, and
// what the pages refer to is there.
package lint
