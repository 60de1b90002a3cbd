// Package frame finds the frames of a watch in its bytes, and the version in the bytes of a LIST, without decoding an
// object: what is relayed stays the bytes the API server wrote.
//
// A frame of a JSON stream is one line. A frame of a protobuf stream ("application/vnd.kubernetes.protobuf;stream=watch")
// is a length of four bytes, most significant first, and a metav1.WatchEvent whose object is a runtime.Unknown. Of each
// only the path to what a relay needs is walked: the event's type, the object's resourceVersion, the annotation that ends
// initial events (KEP-3157), the code of an error. What cannot be understood is an error and never guessed: its
// reader is then served by the API server itself.
package frame
