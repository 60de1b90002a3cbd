// Package tokens recognises the callers of bearer tokens offline, so that limits know whom they bind while no API server
// answers. It authorizes nothing: the token goes to the API server untouched and only the API server's word counts. What
// it cannot verify is no error, only a caller without a name, who shares a bucket with his source address.
//
// KubeGateway asks the API server (TokenReview) instead, which doubles the upstream's requests and made a p99 of 262 ms
// in its own benchmark; and it cannot name anyone when the API server is down, which is when limits matter.
package tokens
