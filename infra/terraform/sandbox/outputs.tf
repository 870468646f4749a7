output "places" {
  description = "What this root has made, by resource address: what recoup looks at before it plans."
  value = [
    for key, place in terraform_data.place : {
      address = "terraform_data.place[\"${key}\"]"
      kind    = place.output.kind
      name    = place.output.name
      sandbox = place.output.sandbox
    }
  ]
}
