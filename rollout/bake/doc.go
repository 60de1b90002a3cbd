// Package bake says how long a change must be exposed before more of it may be, and counts that time. It is pure: what caches
// there are and what the looks said goes in, how much of the time is over comes out.
//
// On 2024-12-11 DNS answers cached for 20 minutes hid that DNS was gone, until every cluster had the change. So a bake outlasts
// every cache that is known, and its clock runs only while somebody looks: a soak measured from a timestamp that an update did
// not touch let all clusters go at once (ocm#1201).
package bake
