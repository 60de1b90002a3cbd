// Package skew shows that kubectl does through the gate what it does directly: every verb of it, with the same output and
// the same exit code, and every kind of stream. It holds tests only, and runs against whatever control plane it is given:
// `make test-skew` gives it one of each supported minor, with that minor's own kubectl, because what is compared is the
// pair, not our reading of the API.
package skew
