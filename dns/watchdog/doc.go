// Package watchdog is what runs beside seakeep-dns on a node and, when that is dead or answers nonsense, sends the node's
// clients to another DNS program, which serves the exported zone; and back. See its README.
//
// What to do is decided in decision, which is pure. Here is what sees and what does: questions to both servers, a switch
// (nftables, or commands), and, if wanted, an unbound of its own.
package watchdog
