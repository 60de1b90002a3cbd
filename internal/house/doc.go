// Package house holds no code, only the tests of the house's own rules: which room may know which, what every package
// must say of itself, and what belongs in one place only. Each rule carries its reason, and prints it when it is
// broken; a rule that turned out wrong is changed here, in the open, and not worked around.
package house
