package clamp

import "time"

// Status is what GET /v1/clamp answers: who is suspect, and by what measure.
type Status struct {
	Taken time.Time `json:"taken"`
	// Mode is the policy's: Shadow, Enforce or Disabled.
	Mode            string `json:"mode"`
	HeadroomPercent int    `json:"headroomPercent"`
	// Seats are held by everybody, of Capacity; Nodes is how many sources a client may come to have. Source says how the latter
	// two are known.
	Seats          float64 `json:"seats"`
	Capacity       float64 `json:"capacity"`
	CapacitySource string  `json:"capacitySource"`
	Nodes          int     `json:"nodes"`
	NodesSource    string  `json:"nodesSource"`
	// Suspects are the latest first.
	Suspects []Suspect `json:"suspects"`
}
