// Package agree is how several gates come to agree: which emergency rules are in force (decisions.go), and which part of
// every throttle's budget each of them may hand out (shares.go). It is pure: what was heard and the time go in, what is in
// force comes out. Nothing in it waits, and words may arrive late, twice, out of order or never.
package agree
